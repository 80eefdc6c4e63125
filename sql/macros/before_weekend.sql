-- The Thursday before a Friday or a Saturday, the weekend in Saudi Arabia; any other day stays.
create or replace macro before_weekend(due) as
due - case when isodow(due) in (5, 6) then isodow(due) - 4 else 0 end::integer;
