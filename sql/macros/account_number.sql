-- An account number in a form that is the same for every spelling of it: capitals and Western
-- digits, and * for what a bank masks. Spaces, dashes, dots, marks of direction and all other signs
-- are left out, and so is the word IBAN before the number. Null where no digit above zero is left,
-- as in NOTPROVIDED, N/A or 0000. Account numbers are judged, compared and hashed in this form;
-- columns of streams keep what the bank wrote. Plain numbers and Saudi IBANs, which are nearly all,
-- take the short way. The long strings are pairs, as in matchable.
create or replace macro account_number(input) as
case
    when regexp_full_match(input, '0*[1-9][0-9]*|SA[0-9]{2}[A-Z0-9]*[1-9][A-Z0-9]*') then input
    when regexp_full_match(input, 'SA[0-9]{2}[A-Z0-9 -]*[1-9][A-Z0-9 -]*')
        then regexp_replace(input, '[ -]', '', 'g')
    else list_transform(
        [
            regexp_replace(
                case
                    when strlen(input) = length(input) then upper(input)
                    else translate(
                        upper(input),
                        'ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺ０１２３４５６７８９'
                        || '٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९০১২৩৪৫৬৭৮৯＊•●∙∗⁎✱',
                        'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'
                        || '0123456789012345678901234567890123456789*******'
                    )
                end,
                '[^\p{Lu}\p{Ll}\p{Lt}\p{Lo}\p{Nd}*]', '', 'g'
            )
        ],
        lambda bare:
        case
            when not regexp_matches(bare, '[1-9]') then null
            when regexp_full_match(bare, '[0-9]*[X*]{2,}[0-9]{4}') then translate(bare, 'X', '*')
            else regexp_replace(
                bare,
                '^(?:\p{Arabic}*IBAN(?:NUMBER|NUM|NO)??|\p{Arabic}+)([A-Z]{2}[0-9]{2}.*|[0-9*].*)$',
                '\1'
            )
        end
    )[1]
end;
