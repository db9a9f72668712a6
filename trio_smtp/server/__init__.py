"""Who is let in: listeners, limits, drain, and several processes on one port."""
