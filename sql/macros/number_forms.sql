-- Forms of an account number that are looked for among those of own_number_forms. They are the
-- number itself, the number at its bank that an IBAN holds, without leading zeros, and the last
-- four digits of a masked number. Empty for null. The first sign of a form says which forms may
-- equal it.
create or replace macro number_forms(number) as
case
    when number is null then []::varchar[]
    when contains(number, '*') then [number, '*' || right(number, 4)]
    when is_iban(number) then [number, '<' || ltrim(number[5:], '0'), '<' || ltrim(number[7:], '0')]
    when length(number) = 16
        then [number, '=' || ltrim(number, '0'), '>' || ltrim(number, '0'), '#' || right(number, 4)]
    else [number, '=' || ltrim(number, '0'), '>' || ltrim(number, '0')]
end;
