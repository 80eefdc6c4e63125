-- Every amount of a list plus a step.
create or replace macro moved_by(amounts, step) as
list_transform(amounts, lambda one: (one + step)::decimal(38, 9));
