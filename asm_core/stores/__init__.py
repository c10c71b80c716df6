"""Where sessions, runs and events are kept: transactions in `postgres`, queries in `sql`."""
