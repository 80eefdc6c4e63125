-- Whether any of an account's identifications is told whole, and not only as a mask.
create or replace macro is_numbered(identifications) as
len(list_filter(account_numbers(identifications), lambda number: not contains(number, '*'))) > 0;
