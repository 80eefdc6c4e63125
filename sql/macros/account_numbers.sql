-- The numbers among an account's identifications, each once, as account_number spells them. Empty
-- for null.
create or replace macro account_numbers(identifications) as
coalesce(
    list_sort(list_distinct(list_filter(
        list_transform(identifications, lambda one: account_number(one.identification)),
        lambda number: number is not null
    ))),
    []
);
