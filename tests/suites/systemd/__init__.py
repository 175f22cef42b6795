"""The service under a real systemd: `make test-systemd`, as root.

A container of its own boots systemd in a root folder of its own, which debootstrap has made. Nothing of the host but
the wheels can be seen in it, and no network.
"""
