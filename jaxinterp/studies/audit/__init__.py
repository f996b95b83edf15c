"""Does training for the number improve what the number is for?"""
