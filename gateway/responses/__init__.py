"""The Responses API on the generation core: the object, its events, its history, its background."""
