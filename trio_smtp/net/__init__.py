"""I/O without SMTP: sockets, accepting and closing, addresses, and the names of servers, hosts and ciphers."""
