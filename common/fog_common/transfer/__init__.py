"""Transfer of messages and blobs between hosts: sans-IO. See endpoint.py for the interface."""
