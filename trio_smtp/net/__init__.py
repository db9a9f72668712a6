"""I/O without SMTP: sockets, accepting, closing, and the names of hosts and ciphers."""
