"""What happens to a group, told as it happens: events, what makes them, and subscriptions to them."""
