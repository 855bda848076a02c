"""What each layer costs in int8."""
