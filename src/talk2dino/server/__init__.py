"""The service and the page: HTTP in front of one segmenter (extra ``serve``)."""
