"""How fast the library is, and how far it is from the straightforward way and from the machine."""
