"""The ground floor: the protocol without I/O. Octets and values in, octets and values out."""
