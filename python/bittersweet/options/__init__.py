"""What a user may choose: scorers, selectors, scopes, schedules. Checked values, no tensors."""
