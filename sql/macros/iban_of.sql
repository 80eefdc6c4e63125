-- The IBAN among an account's identifications as account_number spells it, or null: the first by
-- alphabet of several.
create or replace macro iban_of(identifications) as
list_min(list_filter(account_numbers(identifications), lambda number: is_iban(number)));
