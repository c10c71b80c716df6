"""Use cases over ports: no SQL, no Redis, no Celery."""
