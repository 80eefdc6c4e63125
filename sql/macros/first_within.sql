-- The first amount of a list that another list holds too, or null.
create or replace macro first_within(amounts, others) as
list_filter(amounts, lambda one: list_contains(others, one))[1];
