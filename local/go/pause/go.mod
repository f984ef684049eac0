module axmodel.io/local/pause

go 1.24
