"""The REST API: thin routes over the service and the views. `create_app` builds it from what bootstrap chose."""
