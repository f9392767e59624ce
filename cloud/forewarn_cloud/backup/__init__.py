"""Backup and restore: the whole database as one file that can be checked, of either kind of database into either."""
