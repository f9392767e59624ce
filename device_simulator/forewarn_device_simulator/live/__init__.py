"""A fleet played live into an agent's MQTT source."""
