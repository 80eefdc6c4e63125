-- Forms by which other spellings of an account's own numbers are recognised; see number_forms. A
-- masked number of the account matches masked numbers and card numbers (16 digits), and nothing
-- else.
create or replace macro own_number_forms(numbers) as
list_sort(list_distinct(flatten(list_transform(
    numbers,
    lambda number:
    case
        when contains(number, '*') then [number, '*' || right(number, 4), '#' || right(number, 4)]
        when is_iban(number)
            then [
                number,
                '>' || ltrim(number[5:], '0'),
                '>' || ltrim(number[7:], '0'),
                '*' || right(number, 4)
            ]
        else [
            number,
            '=' || ltrim(number, '0'),
            '<' || ltrim(number, '0'),
            '*' || right(number, 4)
        ]
    end
))));
