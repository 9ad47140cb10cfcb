"""Stored RGB patches -> the randomised or plain input of a network, batched and on the device."""
