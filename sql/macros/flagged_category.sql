-- The category of a movement's marks, the first by alphabet if the marks lead to several.
-- categories is a map from a mark to its category.
create or replace macro flagged_category(flags, categories) as
case
    when len(flags) > 0 then list_min(list_transform(flags, lambda flag: categories[flag]))
end;
