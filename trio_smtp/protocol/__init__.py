"""SMTP without I/O: octets and values in, octets and values out."""
