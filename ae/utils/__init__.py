"""What every other package may use: errors, validation, random numbers, files, processes, the console."""
