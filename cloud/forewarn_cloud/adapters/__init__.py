"""The outside world behind our ports. Chosen in `forewarn_cloud.bootstrap` and imported nowhere else in the service."""
