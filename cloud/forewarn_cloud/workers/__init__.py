"""What runs beside ingest and API: advisories become orders, due things are looked at again, messages go out."""
