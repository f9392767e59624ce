"""From the broker to committed rows: nothing is acknowledged before it is durable."""
