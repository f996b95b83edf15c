"""What an edit did: to its prompt, to other ways of asking, to neighbours, and to what follows from it."""
