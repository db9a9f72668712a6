"""What programs see: an App to register handlers with, a Config, and what handlers are given."""
