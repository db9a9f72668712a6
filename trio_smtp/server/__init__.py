"""Who is let in: listening, accepting and refusing, draining, and several processes on one port."""
