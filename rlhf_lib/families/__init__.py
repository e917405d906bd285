"""What a model of someone else's needs to be trained as it is: read, refused, adapted, spelled.

Imports the machinery alone; it may be skipped until you bring a model of your own."""
