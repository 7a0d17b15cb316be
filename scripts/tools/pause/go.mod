module chrek/tools/pause

go 1.24.0
