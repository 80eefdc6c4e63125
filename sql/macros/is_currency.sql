-- Whether a currency is a code of ISO 4217, in its three capitals.
create or replace macro is_currency(input) as
case
    when input in ('SAR', 'USD', 'EUR', 'AED') then true
    else coalesce(list_contains(map_values(currencies_by_number()), input), false)
end;
