"""Screen 8: events and worker logs, of any length."""
