"""What can be done to the parameters after every step: one file for each."""
