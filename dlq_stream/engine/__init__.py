"""What happens to a batch: each step a function of one transaction, the policies and now."""
