"""Histories as dataset folders: read them, assess them, learn from them, and ask what a policy would have done."""
