"""CRIU: its service protocol, its image files and how it is started inside a container."""
