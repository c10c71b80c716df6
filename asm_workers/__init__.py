"""Celery at the rim: wakeups in, runs executed on one event loop per process."""
