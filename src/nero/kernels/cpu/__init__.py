"""The compiled CPU kernel: C++ behind a C interface, and what calls it."""
