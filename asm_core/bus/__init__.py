"""Fan-out of stored events: from the committing process to every process that follows, and there to each follower."""
