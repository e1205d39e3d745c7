"""``check-data``: rules that the rows of a finance database keep, each a query for those that do not."""
