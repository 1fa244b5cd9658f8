"""Files from outside and of our own: JSON, rows of data, saved tensors; nothing in them is believed unread."""
