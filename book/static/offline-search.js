// A page opened from disk cannot fetch the excerpts that the search page shows below each hit
// (the list of hits itself works): do without them there.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
