-- Whether an account number is one of an account's own numbers, by the hashes and endings of
-- int_account_numbers. Null where only a mask of the account is known and the number does not fit
-- it. Only a number with the ending of an own number is hashed.
create or replace macro owns_number(number, own_keys, own_endings, is_numbered) as
case
    when
        list_contains(own_endings, right(number, 2))
        and list_has_any(
            list_transform(number_forms(number), lambda form: keyed_hash(form)), own_keys
        )
        then true
    when is_numbered then false
end;
