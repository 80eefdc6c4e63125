-- What an account number can be recognised by among those of own_number_forms: itself, the number
-- at its bank that an IBAN holds, leading zeros apart, and the last four digits
-- where some of it is masked. None for null. The first sign of a form says what may equal it.
create or replace macro number_forms(number) as
case
    when number is null then []::varchar[]
    when contains(number, '*') then [number, '*' || right(number, 4)]
    when is_iban(number) then [number, '<' || ltrim(number[5:], '0'), '<' || ltrim(number[7:], '0')]
    when length(number) = 16
        then [number, '=' || ltrim(number, '0'), '>' || ltrim(number, '0'), '#' || right(number, 4)]
    else [number, '=' || ltrim(number, '0'), '>' || ltrim(number, '0')]
end;
