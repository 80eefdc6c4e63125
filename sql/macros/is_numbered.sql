-- Whether the bank gives at least one of an account's numbers in full, without a mask.
create or replace macro is_numbered(identifications) as
len(list_filter(account_numbers(identifications), lambda number: not contains(number, '*'))) > 0;
