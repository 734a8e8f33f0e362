"""Videos in, labelled videos out (extra ``video``)."""
