-- The masked card number among an account's identifications as account_number spells it, or null:
-- the first by alphabet of several.
create or replace macro masked_pan_of(identifications) as
list_min(list_filter(
    account_numbers(identifications),
    lambda number: regexp_full_match(number, '[0-9]*[*]+[0-9]{4}')
));
